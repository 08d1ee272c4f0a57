"""The vision transformer: images, model, objective."""
