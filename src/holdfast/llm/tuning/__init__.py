"""The objects of the guide on fine-tuning methods: methods, tasks, training, watching and troubles."""
