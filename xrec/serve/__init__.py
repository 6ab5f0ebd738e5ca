"""The online endpoint: the backfill's explanations at once, all others generated as they are asked for."""
