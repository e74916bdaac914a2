"""The memory by innovation: which tokens could not be predicted, and which of them keep a place."""
