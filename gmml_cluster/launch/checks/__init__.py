"""What is found out before anything is submitted: the corpora, the encoder to begin from, the run that is there."""
