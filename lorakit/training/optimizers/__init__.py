"""What turns gradients into steps; one file each, see ``lorakit.training.optimizer``."""
