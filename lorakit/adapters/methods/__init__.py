"""Named presets over the axes, one file each: ``lorakit.adapters.spec.Method`` records; a file's header is its card."""
