"""Ways to combine adapters, one file each: a ``lorakit.artifacts.combination.Combination`` that registers itself."""
