"""The book's own code: the catalogue of experiments, what its pages show of their records, and how it is built."""
