plugins {
    application
    kotlin("jvm") version "2.2.10"
}

repositories {
    mavenCentral()
}

kotlin {
    jvmToolchain(17)
    explicitApi()
}

// The library is the one of the Android sample: it names nothing of Android.
sourceSets {
    main {
        kotlin.srcDir("../android/adabet/src/main/kotlin")
    }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime:1.27.0")
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
}

application {
    mainClass = "dev.adabet.sample.Main"
}
