"""What a run will take, before anything is spent: time, disk, traffic, GPU-hours, money; from records or documented figures."""
