plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "dev.adabet.onnx"
    compileSdk = 36
    defaultConfig {
        minSdk = 24 // as onnxruntime-android
        consumerProguardFiles("consumer-rules.pro")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    explicitApi()
}

dependencies {
    api(libs.onnxruntime)
    api(libs.coroutines)
}
