from experiments.stream_speed.main import main

main()
