"""Named presets over the axes, one file each: ``lorakit.adapters.method.Method`` records; a file's header is its card."""
