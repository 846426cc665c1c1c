"""Model cards (Mitchell et al. 2019): what is known of a fitted mixture, as JSON.

`schema.json` beside this file is the JSON Schema (2020-12) that every card is valid by; it says
what each field means.
"""

from dask_gmm.model_card.card import card_schema, model_card

__all__ = ["card_schema", "model_card"]
