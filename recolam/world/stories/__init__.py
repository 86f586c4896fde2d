"""RecSim NG's stories on torch: networks put together from `recolam.world.blocks`."""
