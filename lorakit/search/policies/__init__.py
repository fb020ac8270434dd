"""Search methods, one file each: subclasses of ``lorakit.search.policy.Policy``."""
