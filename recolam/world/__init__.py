"""Simulated users: RecSim NG networks run by torch, as the environment that a policy learns in."""
