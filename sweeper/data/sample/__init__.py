"""8,000 real images of FashionMNIST, cut by `python -m sweeper.sample.cut`; see NOTICE."""
