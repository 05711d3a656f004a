from experiments.demo.main import main

main()
