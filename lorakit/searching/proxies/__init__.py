"""Zero-cost proxies, one file each: ``lorakit.searching.proxy.Proxy`` records. Only training rows are ever scored."""
