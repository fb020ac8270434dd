"""``lorakit analyze``: what runs have learnt, site by site."""
