"""What an answer says: the facts that it states, and the option that it takes. Rules over plain English."""
