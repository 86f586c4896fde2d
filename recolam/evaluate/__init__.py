"""Judging what was trained: ranking metrics, off-policy estimates, intervals, the gate and the report."""
