"""What goes on during training beside the optimiser's steps: freezing, masking, drawing; one file each, see ``lorakit.training.update``."""
