"""How a report's page looks, down to a width of 400 px: text wraps, figures shrink, and a table scrolls in its own box, never the page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f5f7f9; --ink: #1f2933; --muted: #5b6773; --rule: #d5dbe1;
  --warn: #fff4d6; --line0: #1f6fb2; --line1: #c8642a; --line2: #3a8f5c; --line3: #7d5ba6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14191f; --card: #1d242c; --ink: #e4e9ee; --muted: #9aa7b4; --rule: #38434e;
    --warn: #3d3313; --line0: #5aa9e6; --line1: #ef8f55; --line2: #5fc389; --line3: #b394e0; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; overflow-wrap: anywhere; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.15rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 46rem; }
li { margin: .2rem 0; overflow-wrap: anywhere; }
.muted { color: var(--muted); font-size: .9rem; }
.notice { background: var(--warn); border-left: .25rem solid var(--line1); padding: .6rem .8rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.facts div { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { margin-top: .3rem; max-width: 46rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll svg { display: block; width: 100%; min-width: 20rem; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { overflow-wrap: normal; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 3.6rem; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; overflow-wrap: normal; max-width: 100%; background: var(--card); border-radius: .4rem; padding: .8rem;
  font-size: .82rem; line-height: 1.4; }
footer { margin-top: 3rem; }
@media (max-width: 30rem) { main { padding: 1rem .75rem 2rem; } h1 { font-size: 1.35rem; } .facts { gap: .4rem; } }
@media print { details, .scroll { overflow: visible; } }
"""
