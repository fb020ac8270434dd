"""Zero-cost proxies, one file each: ``lorakit.search.scoring.Proxy`` records. Only training rows are ever scored."""
