"""RecSim NG's building blocks on torch: what users, corpora, recommenders and metrics are made of."""
