"""Zero-cost proxies, one file each: ``lorakit.searching.scoring.Proxy`` records. Only training rows are ever scored."""
