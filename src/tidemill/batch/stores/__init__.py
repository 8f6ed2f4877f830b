"""Object stores over obstore: s3://, gs:// and az:// as inputs, as the stage of a run, and as its target."""
