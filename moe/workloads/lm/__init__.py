"""The language model: text, model, objective, sampling."""
