"""Another service, in a process of its own: it shares the contracts with the application, and no code and no tables."""
