"""Class probabilities of the classifiers, and the prediction tensor that contains them."""
