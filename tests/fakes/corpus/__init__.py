"""The hostile corpus by topic; :mod:`tests.fakes.hostile_corpus` puts it together."""
