"""What is not a weight update: blocks that add paths to the model, one file each."""
