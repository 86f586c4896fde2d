"""From Delta tables to a tokenised dataset: domain, split, vocabulary, histories, text, and a leak check."""
