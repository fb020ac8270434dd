"""What adapters have learnt, measured on their updates and on features: the measures, their records, figures, tables and words."""
