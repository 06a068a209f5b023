rootProject.name = "adabet-java"
