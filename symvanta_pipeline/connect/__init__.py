"""How a customer gives and takes back its consent. Knows Vanta's OAuth, the vault and Dagster's partitions."""
