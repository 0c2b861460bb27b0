package e2e

func floodJob(args []string) error { return nil }
func storeJob(args []string) error { return nil }
