"""Initialisations, one file each: functions ``(delta, InitContext) -> None``; see ``lorakit.adapters.init``."""
