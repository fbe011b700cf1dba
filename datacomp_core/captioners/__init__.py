"""Models that write captions of pictures or translate texts, behind one interface (`base.Captioner`)."""
