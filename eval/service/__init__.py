"""An index that people and programs ask over HTTP: `vlp serve`."""
