"""VeRA (Kopiczko et al. 2024): rank + out numbers a site, and nothing that sites share trains."""

from support.adapters.contract import contract

test_contract = contract("vera", parameters=lambda rank, inside, outside: rank + outside)
