"""Job files and cluster profiles as models, with the rules across fields; which fields make another run."""
