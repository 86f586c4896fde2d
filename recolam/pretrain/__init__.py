"""Stage: tokenised dataset in, pretrained sequence model out."""
