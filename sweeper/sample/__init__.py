"""8,000 real images of FashionMNIST, cut by docs/cut_sample.py; see NOTICE."""
