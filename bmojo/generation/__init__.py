"""Generation: prefill of prompts, a compiled decoding loop, sampling and stop conditions."""
