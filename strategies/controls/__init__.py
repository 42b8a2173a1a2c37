"""Controls: trained parameters like LoSA's, without what LoSA claims to use."""
