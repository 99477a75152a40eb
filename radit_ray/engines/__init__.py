"""What two stages share of Ray: connecting, resources, mapping shards, training, sharded search,
answering.
"""
