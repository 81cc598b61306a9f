"""pydantic-ai against a server: python use_pydantic_ai.py URL MODEL."""

import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url, name = sys.argv[1:]


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    sure: bool


model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="unused"))
how = {"max_tokens": 120}
assert isinstance(Agent(model, model_settings=how).run_sync("hello").output, str)
for form in (Mood, NativeOutput(Mood)):
    found = Agent(model, output_type=form, model_settings=how).run_sync("hello")
    assert isinstance(found.output, Mood), form
    assert found.usage.output_tokens > 0 if not callable(found.usage) else found.usage().output_tokens > 0
