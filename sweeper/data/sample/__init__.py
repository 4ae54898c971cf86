"""8,000 real images of FashionMNIST, cut by `python -m docs.cut_sample`; see NOTICE."""
