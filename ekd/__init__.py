"""Selective knowledge distillation of language models."""

from omegaconf import OmegaConf

from ekd.defaults import answer_precision, precision, rate, small

# conf/ calls them. Here and not at a door, so that hydra.compose alone will do, in a notebook for example.
OmegaConf.register_new_resolver("ekd.precision", precision, replace=True)
OmegaConf.register_new_resolver("ekd.answering", answer_precision, replace=True)
OmegaConf.register_new_resolver("ekd.rate", rate, replace=True)
OmegaConf.register_new_resolver("ekd.small", small, replace=True)
