"""The sequence model, its losses, its training loop and its ranking: shared by pretrain, policy and transfer."""
