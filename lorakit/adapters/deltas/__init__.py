"""Parametrisations of a site's update, one file each: subclasses of ``lorakit.adapters.delta.Delta``."""
