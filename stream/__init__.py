"""Shoppers' events become sessions: schemas, the join, the marketplace, replays and the bus they travel on."""
