"""What passes between rooms: artifacts, configs, the tokenised dataset, protocols."""
